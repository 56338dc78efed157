"""The bundle's own readme as a Hugging Face model card: the same text under a front matter that the Hub reads."""

import json
import re
from pathlib import Path

import yaml

TAGS = ["monai", "medical", "mri", "brain", "qsm", "hemochromatosis"]
#: A Markdown link to a file beside the readme; not to a URL, and not to a place on the page.
RELATIVE_LINK = re.compile(r"\]\((?!\w+:|#|/)([^)]+)\)")


def front_matter(metadata: dict) -> dict:
    """What the Hub shows and searches: licence, library, task, and the measures that the metadata declares."""
    metrics = [{"type": key, "name": key.replace("_", " "), "value": v} for key, v in metadata["eval_metrics"].items()]
    return {
        "license": "apache-2.0",
        "library_name": "monai",
        "pipeline_tag": "image-classification",
        "tags": TAGS,
        "model-index": [
            {
                "name": metadata["name"],
                "results": [
                    {
                        "task": {"type": "image-classification", "name": metadata["task"]},
                        "dataset": {"type": "simulated", "name": metadata["data_source"]},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


def model_card(bundle: Path) -> str:
    """README.md for the root of a Hugging Face repository that holds the bundle."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    head = yaml.safe_dump(front_matter(metadata), sort_keys=False, allow_unicode=True, width=1000)
    body = RELATIVE_LINK.sub(r"](docs/\1)", (bundle / "docs" / "README.md").read_text())
    return f"---\n{head}---\n\n{body}"
