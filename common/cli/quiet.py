"""Packages that would call home are told not to. Import this module before them: they look when imported."""
import os

for name, value in {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1",
                    "GRADIO_RUN_HISTORY": "False"}.items():
    os.environ[name] = value
