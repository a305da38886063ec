"""Students with memory: causal, KV-cached, streaming. Empty so far; the attention seam is in core/attention.py."""
