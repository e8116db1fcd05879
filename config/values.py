"""The kinds of values that a configuration is made of, strict where pydantic would guess.

Left alone it takes `true` for the number 1 and the number 5 for the address 0.0.0.5.
"""

import os
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

# Plugins of pydantic are looked for in every package of the environment when the first model is made. There are none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError


class Settings(BaseModel):
    """A part of the configuration: a key that it does not have is an error, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


WholeNumber = Annotated[int, Field(strict=True)]


def _text(kind: str) -> BeforeValidator:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise PydanticCustomError(kind, "not text")
        return value

    return BeforeValidator(check)


Address = Annotated[IPv4Address, _text("ip_v4_address")]
AddressRange = Annotated[IPv4Network, _text("ip_v4_network")]

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def _no_address(value: str) -> str:
    # Programs take a name whose last label is a number for an IPv4 address (RFC 1123, section 2.1).
    if value.rpartition(".")[2].isdecimal():
        raise PydanticCustomError("address_as_name", "an address, and not a name")
    return value


# With a machine's and a stack's name before it, it must fit the 253 characters of a DNS name.
DnsDomain = Annotated[
    str, StringConstraints(pattern=rf"^{_LABEL}([.]{_LABEL})*$", max_length=180), AfterValidator(_no_address)
]
