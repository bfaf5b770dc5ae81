"""Cutouts of BossDB as lazy volumes: verified, kept chunk by chunk in a cache on disk, resumed after an interruption."""

from nnunet_neuro.bossdb.access import BossAccess, access_from, add_arguments
from nnunet_neuro.bossdb.address import CutoutAddress, parse_address
from nnunet_neuro.bossdb.cutout import fetch, open_cutout

__all__ = ["BossAccess", "CutoutAddress", "access_from", "add_arguments", "fetch", "open_cutout", "parse_address"]
