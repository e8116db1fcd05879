"""Google's API, asked with the user's own token: from the environment, or from gcloud.

The token is neither printed nor put into a command line. Standard library only: programs of this directory use it.

Source: https://cloud.google.com/compute/docs/reference/rest/v1
"""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

COMPUTE = "https://compute.googleapis.com/compute/v1"
IAM = "https://iam.googleapis.com/v1"
_SECONDS = 30
_OPERATION_SECONDS = 300
_OFF = {"accessNotConfigured", "SERVICE_DISABLED"}
# What a page of a list says where it has nothing; any other warning means that something is missing on it.
_EMPTY = "NO_RESULTS_ON_PAGE"


class RefusedError(Exception):
    """The API cannot be asked, or its answer is an error; the message says what to do."""


class NotThereError(RefusedError):
    """Google has no such thing."""


class SlowError(RefusedError):
    """An operation has not ended in time."""


@dataclass(frozen=True, kw_only=True)
class Api:
    """Google's API with a token."""

    compute: str
    iam: str
    project: str
    token: str

    def get(self, url: str, **query: str) -> dict[str, Any]:
        """One answer.

        Raises:
            RefusedError: Google does not answer, or refuses.
        """
        return self._ask("GET", f"{url}?{urllib.parse.urlencode(query)}" if query else url)

    def pages(self, url: str, **query: str) -> Iterator[dict[str, Any]]:
        """All pages of a list.

        Raises:
            RefusedError: Google does not answer, refuses, or has left something out.
        """
        while True:
            page = self.get(url, **query)
            scopes = page.get("items")
            for part in (page, *(scopes.values() if isinstance(scopes, dict) else ())):
                warning = part.get("warning") or {}
                if warning and warning.get("code") != _EMPTY:
                    raise RefusedError(f"{url} is not complete: {warning.get('message') or warning.get('code')}")
            yield page
            if not (following := page.get("nextPageToken")):
                return
            query["pageToken"] = following

    def delete(self, url: str) -> None:
        """Delete a resource, and wait until it is gone; one that is gone already is no error.

        Raises:
            RefusedError: Google does not answer, refuses, or has not ended in time.
        """
        try:
            operation = self._ask("DELETE", url)
        except NotThereError:
            return
        # The IAM API has ended when it answers.
        if "selfLink" in operation:
            self.wait(operation)

    def wait(self, operation: Mapping[str, Any]) -> None:
        """Wait until an operation has ended.

        Raises:
            SlowError: it has not ended in time.
            RefusedError: it has failed.
        """
        deadline, pause = time.monotonic() + _OPERATION_SECONDS, 0.05
        while operation.get("status") != "DONE":
            if time.monotonic() > deadline:
                raise SlowError(f"{operation.get('name')} has not ended within {_OPERATION_SECONDS} s: run this again")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
            operation = self.get(self.own_url(str(operation["selfLink"])))
        errors = (operation.get("error") or {}).get("errors") or []
        if errors:
            raise RefusedError("; ".join(str(error.get("message") or error.get("code")) for error in errors))

    def own_url(self, link: str) -> str:
        """A link in an answer, below the address and the project that are asked: no other gets the token.

        Raises:
            RefusedError: it does not lead into a project.
        """
        _, found, path = urllib.parse.urlsplit(link).path.partition("/projects/")
        project, _, rest = path.partition("/")
        if not found or not project or not rest or ".." in rest:
            raise RefusedError(f"Google has answered with a link to another host: {link}")
        return f"{self.compute}/projects/{self.project}/{rest}"

    def _ask(self, method: str, address: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(address, headers=headers, method=method)
        url = address.partition("?")[0]
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except urllib.error.HTTPError as error:
            kind = NotThereError if error.code == 404 else RefusedError
            raise kind(self._refusal(url, error)) from error
        except (OSError, ValueError) as error:
            raise RefusedError(f"{url} cannot be read: {error}") from error

    def _refusal(self, url: str, error: urllib.error.HTTPError) -> str:
        said = _content(error)
        if _reasons(said) & _OFF:
            service = "compute.googleapis.com" if url.startswith(self.compute) else "iam.googleapis.com"
            return (
                f"the API {service} is off in the project {self.project}: "
                f"gcloud services enable {service} --project {self.project}"
            )
        message = said.get("message") or error.reason
        match error.code:
            case 401:
                return f"Google does not accept the credentials ({message}): gcloud auth application-default login"
            case 404:
                return f"Google has no such thing ({message}): correct gcp:project or lab.gcp.region"
            case 403:
                return f"Google does not permit it ({message}): see the roles in docs/gcp.md, and the project's name"
            case _:
                return f"{url} answers with status {error.code}: {message}"


def token() -> str:
    """A token for the API, as Google's provider finds one: the environment, else gcloud's application default.

    Raises:
        RefusedError: there is none.
    """
    if token := os.environ.get("GOOGLE_OAUTH_ACCESS_TOKEN"):
        return token
    if shutil.which("gcloud") is None:
        raise RefusedError("gcloud is not installed: install it, or set GOOGLE_OAUTH_ACCESS_TOKEN")
    said = subprocess.run(
        ["gcloud", "auth", "application-default", "print-access-token"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if said.returncode != 0 or not said.stdout.strip():
        raise RefusedError("there are no credentials for Google Cloud: gcloud auth application-default login")
    return said.stdout.strip()


def _content(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        said = json.load(error)["error"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return said if isinstance(said, dict) else {}


def _reasons(said: Mapping[str, Any]) -> set[str]:
    details = [*said.get("errors", []), *said.get("details", [])]
    return {str(each.get("reason")) for each in details if isinstance(each, dict)}
