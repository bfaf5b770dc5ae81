"""What a test looks for in an HTML page."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags with their attributes, those left open, and the text; a tag that closes another one fails the test."""

    VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())
