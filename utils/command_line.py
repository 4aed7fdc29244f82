"""Command lines whose errors are one line."""

import argparse


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message):
        raise ValueError(message)
