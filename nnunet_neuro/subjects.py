"""Subjects of a study: their files found by path patterns or BIDS names, and the lists that part them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.patterns import glob_pattern, pattern_expression
from nnunet_neuro.volumes.nifti import NIFTI_SUFFIXES


@dataclass(frozen=True)
class Scan:
    """The files of one subject, or of one session of a subject.

    Attributes:
        subject: as the path names it; sessions of one subject share it.
        session: None where the layout knows no sessions.
        files: by the name of the channel or mask.
    """

    subject: str
    session: str | None
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        """Subject and session, of letters, digits, `-` and `_`."""
        words = [self.subject] if self.session is None else [self.subject, self.session]
        return "_".join(re.sub(r"[^A-Za-z0-9_]+", "-", word).strip("-_") for word in words)


# --- path patterns -----------------------------------------------------------------------------------------------------------------


def find_scans(folder: Path, patterns: Mapping[str, str]) -> list[Scan]:
    """Find files by patterns such as `{subject}/anat/*T1w.nii.gz` or `imagesTr/{subject}_{session}.nii.gz`.

    `*` and `?` stand for parts of one name, `**/` for folders. A file that fits several patterns belongs to the one that says most, so
    that `{subject}.nii.gz` and `{subject}_FA.nii.gz` may stand side by side.

    Args:
        folder: the patterns are relative to it.
        patterns: by the name of the channel or mask.

    Returns:
        Every subject (and session) of which some file was found, sorted.

    Raises:
        ValueError: a pattern without `{subject}`, or two files for one name of one subject.
    """
    if len({"{session}" in pattern for pattern in patterns.values()}) > 1:
        raise ValueError(f"some of the patterns {', '.join(patterns.values())} name a {{session}}, and some do not; expected it in all or "
                         "in none")
    found: dict[Path, list[tuple[int, str, tuple[str, str | None]]]] = defaultdict(list)
    for name, pattern in patterns.items():
        expression, weight = _expression(pattern), len(re.sub(r"\{\w+\}|\*", "", pattern))
        for path in folder.glob(glob_pattern(pattern)):
            match = expression.fullmatch(path.relative_to(folder).as_posix())
            if match and not path.name.startswith("."):
                found[path].append((weight, name, (match["subject"], match.groupdict().get("session"))))
    fitting: dict[tuple[str, str | None], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, fits in found.items():
        for weight, name, key in fits:
            if weight == max(fits)[0]:
                fitting[key][name].append(path)
    return [Scan(*key, {name: _only(paths, name, key, patterns[name]) for name, paths in fitting[key].items()})
            for key in sorted(fitting, key=_in_order)]


def expected_file(pattern: str, subject: str, session: str | None) -> str:
    """A pattern with the names of a subject and session in it, for an error message."""
    return pattern.replace("{subject}", subject).replace("{session}", session or "")


def _expression(pattern: str) -> re.Pattern[str]:
    if pattern.startswith("/") or ".." in pattern:
        raise ValueError(f"pattern {pattern!r} leaves the source folder; expected one relative to it, such as {{subject}}/T1.nii.gz")
    expression = pattern_expression(pattern, ("subject", "session"))
    if "{subject}" not in pattern:
        raise ValueError(f"pattern {pattern!r} names no {{subject}}; expected one such as {{subject}}/anat/*T1w.nii.gz, with "
                         "{session} where there are sessions")
    return expression


def _only(paths: list[Path], name: str, key: tuple[str, str | None], asked: str) -> Path:
    if len(paths) > 1:
        first, second = sorted(paths)[:2]
        raise ValueError(f"{first} and {second} both fit {asked!r}, so the {name} of {' '.join(filter(None, key))} is not clear; describe "
                         "it more closely, or move one away")
    return paths[0]


def _in_order(key: tuple[str, str | None]) -> tuple[str, str]:
    return key[0], key[1] or ""


# --- BIDS --------------------------------------------------------------------------------------------------------------------------


def find_bids_scans(folder: Path, wanted: Mapping[str, str]) -> list[Scan]:
    """Find files of a BIDS dataset and its `derivatives` by the end of their names.

    What is wanted is a suffix with any entities before it: `T1w`, `acq-mprage_T1w`, `desc-thalamus_mask`. A word alone also stands for
    the entity `param`, so that `FA` finds `..._param-FA_dwimap.nii.gz`. Of several files the raw one comes before one of the
    derivatives, and then the one with fewest further entities.

    Args:
        folder: with `sub-*` in it.
        wanted: by the name of the channel or mask.

    Returns:
        Every subject and session of which some file was found, sorted.

    Raises:
        FileNotFoundError: no subject there.
        ValueError: two files that fit equally well.
    """
    subjects = [path for place in (folder, *folder.glob("derivatives/*")) for path in place.glob("sub-*") if path.is_dir()]
    if not subjects:
        raise FileNotFoundError(f"{folder} holds no folder sub-*; expected a BIDS dataset with sub-01/anat and so on")
    fitting: dict[tuple[str, str | None], dict[str, list[tuple[tuple[bool, int], Path]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(path for subject in subjects for path in subject.rglob("sub-*") if path.name.lower().endswith(NIFTI_SUFFIXES)):
        entities, suffix = _parse_bids(path)
        derived = "derivatives" in path.relative_to(folder).parts
        for name, asked in wanted.items():
            further = _further_entities(asked, entities, suffix)
            if further is not None:
                fitting[f"sub-{entities['sub']}", entities.get("ses") and f"ses-{entities['ses']}"][name].append(((derived, further), path))
    return [Scan(*key, {name: _only([path for rank, path in ranked if rank == min(ranked)[0]], name, key, wanted[name])
                        for name, ranked in fitting[key].items()}) for key in sorted(fitting, key=_in_order)]


def _parse_bids(path: Path) -> tuple[dict[str, str], str]:
    ending = next(ending for ending in (".nii.gz", *NIFTI_SUFFIXES) if path.name.lower().endswith(ending))
    *entities, suffix = path.name[: -len(ending)].split("_")
    return dict(entity.split("-", 1) for entity in entities if "-" in entity), suffix


def _further_entities(asked: str, entities: Mapping[str, str], suffix: str) -> int | None:
    """Number of entities that were not asked for; None if the file is not the one."""
    *asked_entities, asked_suffix = asked.split("_")
    pairs = dict(word.split("-", 1) for word in asked_entities if "-" in word)
    if asked_suffix != suffix:
        if asked_entities or entities.get("param") != asked_suffix:
            return None
        pairs["param"] = asked_suffix
    if any(entities.get(name) != value for name, value in pairs.items()):
        return None
    return len(entities.keys() - pairs.keys() - {"sub", "ses"})


# --- lists of subjects -------------------------------------------------------------------------------------------------------------


def read_subjects(file: Path) -> tuple[str, ...]:
    """The subjects of a list, one a line; empty lines and what follows `#` do not count.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no subject in it, or one twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no list of subjects {file}; expected a text file with one subject a line")
    subjects = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    subjects = [subject for subject in subjects if subject]
    twice = [subject for subject, times in Counter(subjects).items() if times > 1]
    if twice or not subjects:
        raise ValueError(f"the list of subjects {file} {f'names {twice[0]} twice' if twice else 'is empty'}; expected each subject once, "
                         "one a line")
    return tuple(subjects)


def check_disjoint(lists: Mapping[str, Iterable[str]]) -> None:
    """No subject may be in two of the lists.

    Raises:
        ValueError: one is.
    """
    list_of: dict[str, str] = {}
    for name, subjects in lists.items():
        for subject in subjects:
            other = list_of.setdefault(subject, name)
            if other != name:
                raise ValueError(f"subject {subject} stands in the {other} list and in the {name} list; expected it in one: a model must "
                                 "not be tested on what it was trained on")


def held_out(subjects: Iterable[str], *, fraction: float, seed: int) -> frozenset[str]:
    """A fraction of the subjects, the same in every run, on every machine, and in whatever order they come.

    They are drawn by a hash of seed and name, so a further subject hardly changes the choice.

    Args:
        subjects: their names.
        fraction: 0 to 1; the number is rounded, but not to none and not to all.
        seed: another one draws others.

    Returns:
        The subjects drawn; none if the fraction is 0 or there is only one subject.
    """
    ordered = sorted(set(subjects), key=lambda subject: (hashlib.sha256(f"{seed}/{subject}".encode()).digest(), subject))
    if fraction <= 0 or len(ordered) < 2:
        return frozenset()
    return frozenset(ordered[: min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)])
