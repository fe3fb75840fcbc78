"""The record of every decision and every end: what is written, by whom, and that it survives."""
