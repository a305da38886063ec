"""Audio-driven students. Empty so far; conditions along the sequence are in core/cond.py."""
