"""The reference trainer: one loop, its data and its options, to read in one sitting and to copy from."""

from linnaeus.training._loop import Observer, TrainResult, train

__all__ = ["Observer", "TrainResult", "train"]
