"""Amazon's Signature Version 4, as botocore makes it."""

from __future__ import annotations

from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

__all__ = ["AWSRequest", "AmazonSigner"]


class AmazonSigner(SigV4Auth):  # type: ignore[misc]
    """botocore's, but for asking only once which headers are signed: it asks twice, by an e-mail's parser, which is a
    sixth of what a signature costs."""

    def headers_to_sign(self, request: AWSRequest) -> Any:
        known = request.context.get("headers_to_sign")
        if known is None:
            known = request.context["headers_to_sign"] = super().headers_to_sign(request)
        return known
