"""Places that are looked at from afar: see `geowb.labelled`, where other studies find them too."""

from geowb.labelled import Places, cut_places, dominant

__all__ = ["Places", "cut_places", "dominant"]
