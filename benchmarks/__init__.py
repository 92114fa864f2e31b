"""Measurements side by side: linnaeus against torch, safetensors and what the machine can do at most.

Run them with `python -m benchmarks`. The ways of one comparison take turns (A B A B) in one run, so that
whatever else the machine does meets all of them alike.
"""
