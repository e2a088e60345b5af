"""The downloads of a result: files, a link, and the code that gives the same map."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from space.components.combobox import LIVE_REGION, LIVE_REGION_CSS
from space.components.style import html_view

__all__ = ["FILE_KINDS", "build_downloads", "downloads_value"]

FILE_KINDS = {
    "overlay": "Overlay (PNG)",
    "map": "Map (NPY)",
    "manifest": "Manifest (JSON)",
    "archive": "Everything (ZIP)",
}
"""What can be downloaded, and the words for it."""

_NO_PHOTO = "An uploaded photo cannot be in a link: each visitor chooses a photo of their own."
_NO_REFERENCE = (
    "An uploaded reference cannot be in a link: with this one the photo is compared with itself."
)
_ALL = "It opens this view."


def build_downloads() -> gr.HTML:
    """Builds the part where it is called.

    It fires ``select`` with ``kind``, a key of ``FILE_KINDS``; the file is handed over as the prop
    ``ready``: its ``address``, its ``name``, and a ``turn`` that no other one has.
    """
    buttons = "".join(
        f'<button type="button" data-kind="{kind}">{words}</button>'
        for kind, words in FILE_KINDS.items()
    )
    return html_view(
        "downloads",
        _CSS + LIVE_REGION_CSS,
        _JS,
        downloads_value("", has_photo=True, has_reference=True, codes={}),
        html_template=_TEMPLATE.replace("BUTTONS", buttons) + LIVE_REGION,
        ready={},
    )


def downloads_value(
    query: str, *, has_photo: bool, has_reference: bool, codes: Mapping[str, str]
) -> dict[str, object]:
    """The value of the component.

    Args:
        query: The query of the link to this view.
        has_photo: Whether the photo is in it.
        has_reference: Whether the reference is in it, if there was one.
        codes: Texts to copy, by their titles.
    """
    note = _ALL if has_reference else _NO_REFERENCE
    return {
        "query": query,
        "note": note if has_photo else _NO_PHOTO,
        "codes": codes,
    }


_TEMPLATE = """
<h3>Downloads, link and code</h3>
<div class="files" role="group" aria-label="Files to download">BUTTONS</div>
<div class="link">
  <label for="link_text">Link to this view</label>
  <div class="row"><input id="link_text" type="text" readonly aria-describedby="link_note">
  <button type="button" class="copy" aria-label="Copy the link">Copy</button></div>
  <p id="link_note"></p>
</div>
<div class="codes"></div>
"""

_CSS = """
h3 { margin: 0 0 0.4rem; font-size: 1rem; color: var(--body-text-color); }
.files { display: flex; flex-wrap: wrap; gap: 0.4rem; margin-bottom: 0.7rem; }
button {
  padding: 0.4rem 0.8rem; border: 1px solid var(--border-color-primary); cursor: pointer;
  border-radius: var(--radius-md); background: var(--button-secondary-background-fill);
  color: var(--body-text-color); font-size: 0.85rem; line-height: 1.3;
}
button:hover { border-color: var(--color-accent); }
button:focus-visible, summary:focus-visible, input:focus-visible, pre:focus-visible {
  outline: 3px solid var(--color-accent); outline-offset: 1px;
}
button[aria-busy="true"] { opacity: 0.7; cursor: progress; }
label { display: block; font-size: 0.85rem; color: var(--body-text-color); }
.row { display: flex; gap: 0.4rem; margin-top: 0.2rem; }
input {
  flex: 1; min-width: 0; padding: 0.4rem 0.5rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-md); background: var(--input-background-fill);
  color: var(--body-text-color); font-size: 0.82rem;
}
.link p { margin: 0.25rem 0 0.6rem; font-size: 0.8rem; color: var(--body-text-color-subdued); }
details {
  position: relative; padding: 0.3rem 0; border-top: 1px solid var(--border-color-primary);
}
summary {
  cursor: pointer; padding: 0.25rem 0; font-size: 0.88rem; color: var(--body-text-color);
}
details .copy { position: absolute; right: 0; top: 0.3rem; padding: 0.15rem 0.6rem; }
pre {
  margin: 0.3rem 0; padding: 0.7rem; overflow: auto; max-height: 22rem; font-size: 0.8rem;
  border-radius: var(--radius-md); background: var(--background-fill-secondary);
  color: var(--body-text-color); font-family: var(--font-mono); white-space: pre;
}
"""

# Everything is shown as text. Files are made when they are asked for, and then downloaded.
_JS = """
const link = element.querySelector("input"), codes = element.querySelector(".codes");
const note = element.querySelector("#link_note"), live = element.querySelector(".live-region");
const here = () => location.href.split(/[?#]/)[0];

const draw = () => {
  const { query, note: words, codes: texts } = props.value;
  link.value = query ? here() + "?" + query : "";
  note.textContent = words;
  const open = [...codes.children].map((each) => each.open);
  codes.replaceChildren(...Object.entries(texts).map(([title, text], at) => {
    const box = document.createElement("details"), head = document.createElement("summary");
    const body = document.createElement("pre"), copy = document.createElement("button");
    box.open = Boolean(open[at]);
    head.textContent = title;
    body.textContent = text;
    body.tabIndex = 0;
    body.setAttribute("role", "region");
    body.setAttribute("aria-label", title);
    copy.type = "button";
    copy.className = "copy";
    copy.textContent = "Copy";
    copy.setAttribute("aria-label", "Copy: " + title);
    copy.hidden = !box.open;
    box.addEventListener("toggle", () => { copy.hidden = !box.open; });
    box.append(head, copy, body);
    return box;
  }));
};
const put = async (text, button) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without the right to use the clipboard, or over plain HTTP.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  live.textContent = "Copied.";
  const words = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = words; live.textContent = ""; }, 1500);
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.kind) {
    button.setAttribute("aria-busy", "true");
    live.textContent = "Making the file …";
    trigger("select", { kind: button.dataset.kind });
  } else {
    const box = button.closest("details");
    put(box ? box.querySelector("pre").textContent : link.value, button);
  }
});
link.addEventListener("focus", () => link.select());
watch("value", draw);
watch("ready", () => {
  for (const button of element.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
  if (!props.ready?.address) return;
  const anchor = document.createElement("a");
  anchor.href = props.ready.address;
  anchor.download = props.ready.name;
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  live.textContent = props.ready.name + " is downloaded.";
});
draw();
"""
