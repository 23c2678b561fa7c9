"""Describes the devices that JAX finds: `benchmark devices`."""

from typing import Any

import jax
import jaxlib

from fsvfm_jax.devices.backends import has_cudnn_attention


def find_devices() -> dict[str, Any]:
    """Returns platform, kind, number and abilities of the devices, and the versions of JAX."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "has_cudnn_attention": has_cudnn_attention(device),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
