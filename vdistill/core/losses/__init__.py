"""Losses as pure functions on tensors: per-sample values [B] out, weights and means left to whoever calls."""
