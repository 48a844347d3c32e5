"""Adapters from what a gateway writes to the topic of submits: one module per kind of file, one that sends."""
