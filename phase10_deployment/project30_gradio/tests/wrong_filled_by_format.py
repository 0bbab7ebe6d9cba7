"""str.format: it reads attributes, and fails on braces that are no names."""


def filled(template, values):
    return template.format(**values)
