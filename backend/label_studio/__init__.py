"""Everything specific to Label Studio: labeling configs, API, images, regions and ML protocol."""

from typing import Any

Json = dict[str, Any]
"""A JSON object of Label Studio whose fields are read one by one."""
