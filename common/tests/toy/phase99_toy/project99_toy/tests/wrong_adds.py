"""Adds where it should multiply."""


def scaled(numbers, by):
    return [number + by for number in numbers]
