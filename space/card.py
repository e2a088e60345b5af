"""The card of the Space: the front matter that the Hub builds it from, and what people read."""

from __future__ import annotations

import re
from importlib.metadata import version

from huggingface_hub import SpaceCardData, SpaceHardware

from cam_hub.errors import InvalidArgument

__all__ = ["MODELS", "OAUTH_SCOPES", "PYTHON", "TITLE", "check_hardware", "make_card"]

TITLE = "cam_hub: which pixels spoke for which class"

PYTHON = "3.12"
"""Every kind of hardware of the Hub offers it, and all dependencies run on it."""

OAUTH_SCOPES = ("read-repos", "gated-repos")
"""What people who sign in allow: to read their private models, and the gated ones that they may."""

MODELS = (
    "timm/tf_efficientnet_lite0.in1k",
    "timm/resnet50.a1_in1k",
    "timm/convnext_tiny.in12k_ft_in1k",
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "timm/swin_tiny_patch4_window7_224.ms_in1k",
    "timm/mobilenetv3_large_100.ra_in1k",
)
"""The models on the Hub that the page offers, so that their pages link to the Space."""

_SHORT = "Class activation maps of any timm or torchvision model"

_TEXT = """
# {title}

Give a model's ID and a photo: the page shows what the model saw, which pixels spoke for it, and
which of its layers a map can be made from. Any timm model on the Hub works, your own fine-tuned
ones too, and torchvision's.

Programs ask the same over the API:

```python
from gradio_client import Client, handle_file

client = Client("{space_id}")
overlay, *rest = client.predict(handle_file("cat.jpg"), api_name="/explain")
```

The folder runs anywhere: `pip install -r requirements.txt`, then `python app.py`.
"""


def make_card(
    space_id: str = "OWNER/NAME", *, title: str = TITLE, hardware: str | None = None
) -> str:
    """The Space's ``README.md``.

    Args:
        space_id: How programs call it.
        title: Shown above the Space and in lists.
        hardware: What those who copy the Space are advised to take; None for the free one.

    Raises:
        InvalidArgument: If the Hub would not take one of them, or has no such Gradio as is
            installed here.
    """
    data = SpaceCardData(
        title=_line("title", title),
        emoji="🔥",
        colorFrom="indigo",
        colorTo="red",
        sdk="gradio",
        sdk_version=_released(version("gradio")),
        python_version=PYTHON,
        app_file="app.py",
        short_description=_SHORT,
        license="apache-2.0",
        suggested_hardware=check_hardware(hardware or SpaceHardware.CPU_BASIC.value),
        hf_oauth=True,
        hf_oauth_scopes=list(OAUTH_SCOPES),
        models=list(MODELS),
        tags=["class-activation-map", "explainability", "grad-cam", "timm", "torchvision"],
        pinned=False,
    )
    return f"---\n{data.to_yaml()}\n---\n{_TEXT.format(title=data.title, space_id=space_id)}"


def check_hardware(name: str) -> str:
    """The name of hardware that the app runs on, as it was given.

    Raises:
        InvalidArgument: If the Hub has no such hardware.
    """
    known = [item.value for item in SpaceHardware]
    if name not in known:
        raise InvalidArgument("hardware", name, f"one of {', '.join(known)}")
    return name


def _line(argument: str, text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > 100:
        raise InvalidArgument(argument, text, "1 to 100 characters on one line")
    return text.strip()


def _released(number: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+){1,2}", number):
        raise InvalidArgument("gradio", number, "an installed release of gradio, like 6.31.0")
    return number
