"""Writes the mean into every module: layers that still have their own weights lose them."""


def average(modules):
    with torch.no_grad():
        for name, _ in modules[0].named_parameters():
            mean = torch.stack([module.get_parameter(name) for module in modules]).mean(0)
            for module in modules:
                module.get_parameter(name).copy_(mean)
