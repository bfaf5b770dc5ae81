"""What must hold for any input: words of the command line, label maps, cutting, patterns of files, folds."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnunet_neuro.blocks import even_parts, separated_slabs, size_for, tile
from nnunet_neuro.converters import load_converter
from nnunet_neuro.label_maps import foreground, remapped, whole_numbers
from nnunet_neuro.options import BACKGROUND, dataset_labels, label_values, parse_labels, parse_margin, parse_size, parse_spacing
from nnunet_neuro.patterns import find, pattern_expression
from nnunet_neuro.raw_dataset import IGNORE
from nnunet_neuro.splits import fixed_split, grouped_folds
from nnunet_neuro.volumes import derived, grown
from nnunet_neuro.volumes.spacing import in_micrometres, micrometres_per
from nnunet_neuro.volumes.volume import Volume

# the same examples in every run, on any machine
stable = partial(settings, derandomize=True, deadline=None)
often, rarely = stable(max_examples=200), stable(max_examples=50)

# --- words of the command line ---------------------------------------------------------------------------------------------------------

class_names = st.one_of(st.sampled_from([BACKGROUND, IGNORE, "axon", "cell body"]),
                        st.text(min_size=1, max_size=9).map(str.strip).filter(lambda name: name and not set(name) & set(",=")))
values = st.one_of(st.integers(0, 9), st.integers(-10**18 + 1, 10**18 - 1))
label_maps = st.dictionaries(values, class_names, min_size=1, max_size=9).filter(
    lambda names: set(names.values()) - {BACKGROUND, IGNORE})
words = st.one_of(st.text(max_size=12), st.text("0123456789,.-=e ", max_size=12))


@often
@given(label_maps, st.sampled_from(["", " "]))
def test_labels_come_back_as_they_were_written(names, space):
    text = ",".join(f"{space}{value}{space}={space}{name}{space}" for value, name in names.items())
    assert parse_labels(text) == {0: BACKGROUND, **names}


@often
@given(label_maps)
def test_numbers_of_classes(names):
    names = {0: BACKGROUND, **names}
    numbers = dataset_labels(list(names.values()))
    assert set(numbers) == {*names.values(), BACKGROUND}
    assert list(numbers.values()) == list(range(len(numbers))) and numbers[BACKGROUND] == 0
    assert numbers.get(IGNORE, len(numbers) - 1) == len(numbers) - 1
    order = [name for name in dict.fromkeys(names.values()) if name not in (BACKGROUND, IGNORE)]
    assert [name for name in numbers if name in order] == order
    mapped = label_values(names)
    assert {value: names[value] for value in names} == {value: next(name for name, number in numbers.items() if number == mapped[value])
                                                        for value in mapped}


def accepts(parse, text: str):
    """What a parser makes of a text; None where it refuses it, which it must do in one way."""
    try:
        return parse(text)
    except argparse.ArgumentTypeError as error:
        assert "\n" not in str(error) and "expected" in str(error)
        return None


def whole(part: str, least: int) -> bool:
    return part.isdecimal() and len(part) <= 9 and int(part) >= least


def positive(part: str) -> bool:
    try:
        return 0 < float(part) < math.inf
    except ValueError:
        return False


@often
@given(words)
def test_any_text_is_labels_or_refused(text):
    try:
        names = parse_labels(text)
    except argparse.ArgumentTypeError:
        return
    assert 0 in names and set(names.values()) - {BACKGROUND, IGNORE}
    assert all(name == name.strip() and name for name in names.values())


@often
@given(st.one_of(words, st.tuples(*[st.floats(allow_nan=True)] * 3).map(lambda sizes: ",".join(map(repr, sizes)))))
def test_voxel_size_is_three_positive_numbers(text):
    parts = text.split(",")
    expected = tuple(map(float, parts)) if len(parts) == 3 and all(map(positive, parts)) else None
    assert accepts(parse_spacing, text) == expected


@often
@given(st.one_of(words, st.lists(st.one_of(st.integers(-1, 2), st.integers(0, 10**10)), min_size=1, max_size=4).map(
    lambda sizes: ",".join(map(str, sizes)))))
def test_size_and_margin_are_whole_numbers(text):
    parts = text.split(",")
    three = tuple(map(int, parts)) if len(parts) == 3 and all(whole(part, 0) for part in parts) else None
    one = (int(text),) * 3 if whole(text, 0) else None
    assert accepts(parse_size, text) == (three if three and 0 not in three else None)
    assert accepts(parse_margin, text) == (three or one)


@often
@given(st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3), st.sampled_from(["nm", "um", "µm", "mm", "Micron", "angstrom"]))
def test_a_unit_changes_a_size_by_its_factor(sizes, unit):
    converted = in_micrometres(sizes, [unit] * 3)
    assert converted == pytest.approx([size * micrometres_per(unit) for size in sizes], rel=1e-8)


@often
@given(st.lists(st.one_of(st.floats(), st.none(), st.text(max_size=3)), min_size=3, max_size=3), st.one_of(st.none(), st.text(max_size=3)))
def test_what_is_no_size_is_unknown(sizes, unit):
    converted = in_micrometres(sizes, [unit, "um", "um"])
    assert converted is None or all(math.isfinite(size) and size >= 0 for size in converted)


# --- label maps ------------------------------------------------------------------------------------------------------------------------

INTEGERS = [np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)]


@st.composite
def labels(draw) -> np.ndarray:
    """A label of any integer type, with values at the edges of what floats tell apart and of the type."""
    dtype = draw(st.sampled_from(INTEGERS))
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    edges = [edge + step for edge in (0, low, high, 2**53, -2**53, 2**63) for step in (-1, 0, 1) if low <= edge + step <= high]
    entries = draw(st.lists(st.one_of(st.sampled_from(edges), st.integers(low, high)), min_size=12, max_size=12))
    return np.array(entries, dtype).reshape(2, 3, 2)


def volume_of(array: np.ndarray) -> Volume:
    return Volume("made", array.shape, array.dtype, None, reader=lambda path, region: array[region])


@often
@given(labels(), st.data())
def test_remapping_is_a_lookup_of_each_voxel(label, data):
    known = st.one_of(st.sampled_from(label.ravel().tolist()), st.integers(-2**63, 2**64))
    pairs = data.draw(st.dictionaries(known, st.integers(0, 65535), max_size=8))
    other = data.draw(st.integers(0, 65535))
    found = derived(volume_of(label), partial(remapped, tuple(pairs.items()), other), "u2").read()
    assert found.dtype == np.uint16
    assert found.ravel().tolist() == [pairs.get(value, other) for value in label.ravel().tolist()]


@often
@given(labels(), st.floats(-1e6, 1e6))
def test_foreground_is_what_is_above_the_threshold(label, threshold):
    found = derived(volume_of(label), partial(foreground, threshold), "u1").read()
    assert found.ravel().tolist() == [int(value > threshold) for value in label.ravel().tolist()]


@often
@given(st.lists(st.one_of(st.integers(-2**31 + 1, 2**31 - 1).map(float), st.floats(width=64)), min_size=8, max_size=8))
def test_whole_floats_stay_what_they_are_and_others_are_refused(entries):
    label = volume_of(np.array(entries).reshape(2, 2, 2))
    if all(math.isfinite(entry) and entry == int(entry) and abs(entry) < 2**31 for entry in entries):
        assert derived(label, whole_numbers, "i8").read().ravel().tolist() == [int(entry) for entry in entries]
    else:
        with pytest.raises(ValueError, match="made"):
            derived(label, whole_numbers, "i8").read()


# --- cutting ---------------------------------------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 12), min_size=1, max_size=3)


def times_covered(shape, regions) -> np.ndarray:
    count = np.zeros(shape, int)
    for region in regions:
        count[region] += 1
    return count


@often
@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_parts_are_as_few_and_as_even_as_can_be(length, longest):
    assume(length / longest < 1000)
    parts = even_parts(length, longest)
    lengths = [stop - start for start, stop in parts]
    assert parts[0][0] == 0 and parts[-1][1] == length and all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    assert len(parts) == -(-length // longest) and max(lengths) <= longest and max(lengths) - min(lengths) <= 1


@often
@given(shapes, st.lists(st.integers(1, 15), min_size=3, max_size=3))
def test_tiles_cover_every_voxel_once(shape, size):
    regions = tile(shape, size[: len(shape)])
    assert (times_covered(shape, regions) == 1).all()
    for axis in range(len(shape)):
        lengths = [region[axis].stop - region[axis].start for region in regions]
        assert 1 <= min(lengths) and max(lengths) <= size[axis] and max(lengths) - min(lengths) <= 1


def test_a_shape_of_more_than_a_million_parts_is_refused():
    with pytest.raises(ValueError, match="1000001 parts"):
        tile((10**9 + 1,), (1000,))


@often
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 11), st.integers(1, 12), st.integers(0, 20)), min_size=1, max_size=3))
def test_a_grown_region_has_the_margin_as_far_as_the_volume_goes(axes):
    shape = [length for length, *_ in axes]
    region = tuple(slice(min(start, length - 1), min(start + size, length)) for length, start, size, _ in axes)
    margin = [more for *_, more in axes]
    for before, after, more, length in zip(region, grown(region, margin, shape), margin, shape):
        assert set(range(after.start, after.stop)) == set(range(before.start - more, before.stop + more)) & set(range(length))


@often
@given(shapes, st.integers(-1, 6), st.integers(-1, 6))
def test_slabs_leave_out_the_gaps_between_them_and_nothing_else(shape, count, gap):
    longest = max(shape)
    if count < 1 or gap < 0 or longest - gap * (count - 1) < count:
        with pytest.raises(ValueError, match=f"into {count} slabs with {gap} voxels"):
            separated_slabs(shape, count, gap)
        return
    slabs = separated_slabs(shape, count, gap)
    axis = shape.index(longest)
    assert times_covered(shape, slabs).max() == 1 and len(slabs) == count
    along = [slab[axis] for slab in slabs]
    assert along[0].start == 0 and along[-1].stop == longest
    assert all(after.start - before.stop == gap for before, after in itertools.pairwise(along))
    lengths = [part.stop - part.start for part in along]
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1
    assert all(slab[other] == slice(0, shape[other]) for slab in slabs for other in range(len(shape)) if other != axis)


@often
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=3),
       st.one_of(st.integers(1, 10**12), st.integers(1, 10**4).flatmap(lambda edge: st.sampled_from([edge**3 - 1 or 1, edge**3, edge**2]))))
def test_case_size_is_the_largest_near_cube_within_the_limit(shape, voxels):
    size = size_for(shape, voxels)
    assert math.prod(size) <= voxels and all(1 <= edge <= length for edge, length in zip(size, shape))
    if math.prod(shape) <= voxels:
        assert size == tuple(shape)
    free = [edge for edge, length in zip(size, shape) if edge < length]
    if free:  # one voxel more along each edge that could be longer would be too much
        bound = math.prod(edge for edge, length in zip(size, shape) if edge == length)
        assert bound * (min(free) + 1) ** len(free) > voxels


@rarely
@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.lists(st.integers(1, 9), min_size=3, max_size=3),
       st.lists(st.integers(0, 3), min_size=3, max_size=3), st.integers(1, 3), st.integers(0, 2))
def test_cases_of_a_volume_cover_it_and_no_group_shares_a_voxel(shape, size, margin, groups, gap):
    """The converter's own cutting, from the command line to the cases."""
    assume(max(shape) - gap * (groups - 1) >= groups)
    converter = load_converter("volumes")
    parser = argparse.ArgumentParser()
    converter.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/v.npy", np.zeros(shape, np.uint8))
        arguments = parser.parse_args(["--image", f"{folder}/v.npy", "--label", f"{folder}/v.npy", "--labels", "1=cell",
                                       "--spacing", "1,1,1", "--case-size", ",".join(map(str, size)),
                                       "--margin", ",".join(map(str, margin)),
                                       "--groups-per-volume", str(groups), "--gap", str(gap), "--file-ending", ".tif"])
        arguments.variant, arguments.name = "classes", "Volumes"
        cases = list(converter.cases(arguments))
    of_group: dict[str, list] = {}
    for case in cases:
        region = tuple(slice(*map(int, part.split(":"))) for part in case.notes["region"].split(","))
        assert case.channels[0].shape == case.label.shape == tuple(part.stop - part.start for part in region)
        assert all(length <= most + 2 * more for length, most, more in zip(case.label.shape, size, margin))
        of_group.setdefault(case.group, []).append(region)
    assert len({case.identifier for case in cases}) == len(cases) and len(of_group) == groups
    covered = [times_covered(shape, regions) > 0 for regions in of_group.values()]
    assert sum(covered).max() == 1
    left_out = np.prod(shape) - sum(int(part.sum()) for part in covered)
    assert left_out == (groups - 1) * gap * np.prod(shape) // max(shape)
    if not any(margin):
        assert times_covered(shape, [region for regions in of_group.values() for region in regions]).max() == 1


# --- patterns of files -----------------------------------------------------------------------------------------------------------------

# any name that a file system takes, but no hidden one
file_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: not name.startswith(".") and len(name.encode()) < 100)
# what stands in the pattern itself must be no wildcard
fixed_parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0{}*?"), max_size=6)


@rarely
@given(st.dictionaries(file_names, st.sets(file_names, min_size=1, max_size=3), min_size=1, max_size=3), fixed_parts, fixed_parts)
def test_what_is_filled_into_a_pattern_is_found_again(cases_of, before, after):
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for group, cases in cases_of.items():
            for case in cases:
                path = Path(folder, "in", f"g{before}{group}", f"c{before}{case}{after}.tif")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                (path.parent / f"d{path.name}").touch()  # fits no pattern
                expected[group, case] = path
        assert find(f"{folder}/in/g{before}{{group}}/c{before}{{case}}{after}.tif", ("group", "case")) == expected


NAMES = ("a", "b", "ab", "a.b", "[a]", "c")
PIECES = ("a", "b", "[a]", "[", "]", ".", "*", "?", "**", "{case}", "{group}", "/", "/**/")
pieces = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Folders and files of every name of NAMES, two folders deep."""
    root = tmp_path_factory.mktemp("tree")
    for outer, inner, name in itertools.product(NAMES, repeat=3):
        path = root / outer / f"{inner}d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@often
@given(pieces)
def test_a_pattern_finds_what_its_expression_matches(tree, piece):
    """All that a walk through the folders finds, whatever `pathlib` makes of the pattern."""
    pattern = re.sub("/+", "/", f"{tree}/{piece}").rstrip("/")
    assume(re.search(r"[{*?]", piece) and not {".", ".."} & set(piece.split("/")))
    expression = pattern_expression(pattern, ("group", "case"))
    walked = [os.path.join(base, name) for base, folders, files in os.walk(tree) for name in (*folders, *files)]
    keys = Counter(tuple(match.groupdict().get(name) for name in ("group", "case"))
                   for path in walked if (match := expression.fullmatch(path)))
    if not keys:
        with pytest.raises(FileNotFoundError, match="found nothing"):
            find(pattern, ("group", "case"))
    elif max(keys.values()) > 1:
        with pytest.raises(ValueError, match="both fit"):
            find(pattern, ("group", "case"))
    else:
        assert find(pattern, ("group", "case")).keys() == keys.keys()


def test_stars_of_folders_stand_for_any_number_of_them_and_none(tree):
    assert len(find(f"{tree}/**/a/bd/{{case}}", ("group", "case"))) == len(NAMES)
    assert len(find(f"{tree}/a/**/{{case}}/c", ("group", "case"))) == len(NAMES)
    with pytest.raises(ValueError, match="both fit"):
        find(f"{tree}/**/bd/{{case}}", ("group", "case"))


# --- folds -----------------------------------------------------------------------------------------------------------------------------

groupings = st.dictionaries(st.text(min_size=1, max_size=6), st.text(max_size=3), min_size=1, max_size=25)


@often
@given(groupings, st.integers(2, 7), st.randoms(use_true_random=False))
def test_every_case_is_validated_once_and_no_group_is_torn(group_of, wanted, random):
    folds = grouped_folds(group_of, folds=wanted)
    groups = set(group_of.values())
    assert len(folds) == (min(wanted, len(groups)) if len(groups) > 1 else 0)
    if folds:
        assert sorted(case for fold in folds for case in fold["val"]) == sorted(group_of)
    for fold in folds:
        assert sorted([*fold["train"], *fold["val"]]) == sorted(group_of) and fold["train"] and fold["val"]
        assert not {group_of[case] for case in fold["train"]} & {group_of[case] for case in fold["val"]}
    shuffled = list(group_of.items())
    random.shuffle(shuffled)
    assert grouped_folds(dict(shuffled), folds=wanted) == folds


@often
@given(groupings, st.data())
def test_fixed_split_keeps_the_parts_or_names_the_group_that_is_in_both(group_of, data):
    split_of = {case: data.draw(st.sampled_from(["train", "val"])) for case in group_of}
    parts = {part: {group_of[case] for case in group_of if split_of[case] == part} for part in ("train", "val")}
    shared = parts["train"] & parts["val"]
    if shared:
        with pytest.raises(ValueError, match="must be in one part only") as caught:
            fixed_split(split_of, group_of)
        assert any(repr(group) in str(caught.value) for group in shared)
    else:
        assert fixed_split(split_of, group_of) == [{part: sorted(case for case in split_of if split_of[case] == part)
                                                    for part in ("train", "val")}]
