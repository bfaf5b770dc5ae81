"""The five read-out features of a tile."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_neuro.tissue_features import number_cells, tissue_features

VESSEL, CELL, AXON = 1, 2, 3


def features(labels: np.ndarray, spacing=(2.0, 2.0)):
    cells = number_cells(labels[None], CELL)[0]
    return tissue_features(labels, cells, vessel=VESSEL, axon=AXON, spacing_yx=spacing)


def test_fractions_are_of_all_pixels():
    labels = np.zeros((10, 10), np.uint8)
    labels[:2] = VESSEL
    labels[5:] = AXON
    found = features(labels)
    assert (found.vessel_fraction, found.axon_fraction) == (0.2, 0.5)


def test_empty_tile_has_no_distance_and_no_area():
    found = features(np.zeros((10, 10), np.uint8))
    assert (found.vessel_fraction, found.cell_count, found.cell_distance_um, found.cell_area_um2) == (0, 0, None, None)


def test_one_cell_has_an_area_but_no_neighbour():
    labels = np.zeros((10, 10), np.uint8)
    labels[2:4, 2:5] = CELL
    found = features(labels, (2.0, 3.0))
    assert (found.cell_count, found.cell_distance_um, found.cell_area_um2) == (1, None, 36.0)


def test_distance_leaves_out_the_cell_itself():
    labels = np.zeros((20, 20), np.uint8)
    for y, x in ((2, 2), (2, 6), (12, 2)):
        labels[y, x] = CELL
    # neighbours at 4, 4 and 10 pixels; with the cells themselves, at 0, the mean would be half of that
    assert features(labels).cell_distance_um == pytest.approx(2 * (4 + 4 + 10) / 3)


def test_distance_is_in_micrometres_along_each_axis():
    labels = np.zeros((20, 20), np.uint8)
    labels[3, 5] = labels[3, 9] = CELL
    assert features(labels, (1.0, 0.5)).cell_distance_um == pytest.approx(2.0)
    assert features(labels.T, (1.0, 0.5)).cell_distance_um == pytest.approx(4.0)


def test_nearest_neighbours_equal_a_plain_search():
    generator = np.random.default_rng(1)
    labels = np.zeros((64, 64), np.uint8)
    points = np.unique(generator.integers(0, 32, (40, 2)) * 2, axis=0)
    labels[tuple(points.T)] = CELL
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    found = features(labels, (1.17, 1.17))
    assert found.cell_count == len(points)
    assert found.cell_distance_um == pytest.approx(1.17 * distances.min(axis=1).mean())


def test_a_cell_keeps_its_number_through_the_planes():
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[0, 2:4, 1:3] = labels[0, 2:4, 5:7] = CELL
    labels[1, 2:4, 1:7] = CELL  # the two blobs of the other planes are one cell
    labels[2, 2:4, 1:3] = CELL
    labels[2, 7, 7] = CELL  # touches only at a corner: another cell
    cells = number_cells(labels, CELL)
    assert cells.max() == 2
    assert tissue_features(labels[0], cells[0], vessel=VESSEL, axon=AXON, spacing_yx=(1, 1)).cell_count == 1
    assert tissue_features(labels[2], cells[2], vessel=VESSEL, axon=AXON, spacing_yx=(1, 1)).cell_count == 2
