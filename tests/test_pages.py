"""The frame of the HTML pages."""


from nnunet_neuro.pages import Section, page, table
from tests.html_page import Page


def test_texts_are_shown_as_they_are_and_bodies_are_html():
    parsed = Page(page("<i>$a$ & b", [Section('x"&', "<h> $main", "<em>$body</em>")], subtitle="<sub>", footer="<foot>"))
    assert parsed.open == [] and len(parsed.attributes("em")) == 1
    assert all(text in parsed.text for text in ("<i>$a$ & b", "<h> $main", "$body", "<sub>", "<foot>"))
    assert [one["href"] for one in parsed.attributes("a")] == ["#main", '#x"&']
    assert parsed.attributes("section") == [{"id": 'x"&', "aria-labelledby": 'x"&-heading'}]
    assert parsed.attributes("h2") == [{"id": 'x"&-heading'}]


def test_the_skip_link_comes_first_and_leads_past_the_navigation():
    parsed = Page(page("title", [Section("one", "One", "<p>text</p>")]))
    names = [name for name, _ in parsed.tags]
    assert parsed.attributes("a")[0] == {"class": "skip", "href": "#main"} and names.index("a") < names.index("nav") < names.index("main")
    assert parsed.attributes("main") == [{"id": "main", "tabindex": "-1"}]


def test_what_is_empty_is_left_out():
    parsed = Page(page("title", [Section("one", "One", ""), Section("two", "Two", "<em>text</em>")]))
    assert "One" not in parsed.text and [one["href"] for one in parsed.attributes("a")] == ["#main", "#two"]
    assert not parsed.attributes("p") and not parsed.attributes("footer")


def test_a_page_can_overrule_the_style_of_all():
    text = page("title", [], style=":root { --width: 7px; }")
    assert text.rindex("--width: 7px") > text.rindex("@media print") and text.index("</style>") > text.index("--width: 7px")


def test_a_table_scrolls_with_the_keyboard_and_names_itself():
    rows = ["<tr><td>1</td></tr>", "<tr><td>2</td></tr>"]
    parsed = Page(table("a <b>", ["<c>"], rows, more_heads='<th scope="col">d</th>', kind="files"))
    assert parsed.open == [] and parsed.attributes("div") == [
        {"class": "wide", "tabindex": "0", "role": "region", "aria-label": "a <b>"}]
    assert parsed.attributes("table") == [{"class": "files"}] and "a <b>" in parsed.text and "<c>" in parsed.text
    assert parsed.attributes("th") == [{"scope": "col"}, {"scope": "col"}] and len(parsed.attributes("tr")) == 3
    assert "class" not in Page(table("a", [], [])).attributes("table")[0]
