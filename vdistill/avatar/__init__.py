"""Talking heads: sound as features, adapters that hear and see a reference, live sessions, sync."""
