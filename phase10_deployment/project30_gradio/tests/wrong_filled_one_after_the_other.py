"""Names are replaced one after the other: what a value holds is filled in its turn."""


def filled(template, values):
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template
