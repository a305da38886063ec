"""The `talker` world: faces that speak real synthesised speech, with the exact truth about every frame."""
