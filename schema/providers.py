"""The providers whose prices are shipped, by the names that other tools have for them.

Sources of the names: OpenTelemetry's `gen_ai.provider.name` (and `gen_ai.system` before it), LiteLLM's
`custom_llm_provider`, genai-prices' and pydantic-ai's provider ids, LangChain's and OpenInference's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": (),
    "apollo": ("apollo.io",),
    "aws": (
        *("bedrock", "aws.bedrock", "aws_bedrock", "aws-bedrock", "amazon_bedrock", "amazon-bedrock"),
        "bedrock_converse",
    ),
    "azure": (
        *("azure.ai.openai", "az.ai.openai", "azure.ai.inference", "az.ai.inference", "azure_openai", "azure-openai"),
        *("azure_ai", "azure-ai", "azure_text"),
    ),
    "cohere": ("cohere_chat",),
    "deepseek": (),
    "exa": ("exa.ai", "exa_ai"),
    "google": (
        *(
            "gcp.gemini",
            "gcp.vertex_ai",
            "gcp.gen_ai",
            "gemini",
            "vertex_ai",
            "vertex_ai_beta",
            "vertex-ai",
            "vertexai",
        ),
        *("google_genai", "google-genai", "google_vertexai", "google-vertex", "google-gla", "google_ai_studio"),
    ),
    "groq": (),
    "mistral": ("mistral_ai", "mistral-ai", "mistralai"),
    "openai": ("text-completion-openai", "openai-chat", "openai-responses"),
    "openrouter": ("open_router", "open-router"),
    "twilio": (),
    "xai": ("x_ai", "x-ai", "x.ai", "grok"),
}
"""Our name -> others for the same provider, in small letters. None is shorter than the one that takes its place."""

_NAMES: Final = {other: name for name, others in ALIASES.items() for other in (name, *others)}

OTHER_NAMES: Final = frozenset(_NAMES) - ALIASES.keys()
"""Those that are not ours."""


def provider_of(name: str) -> str:
    """Our name for a provider, whatever the case; a provider that is not known here keeps the name that it has."""
    known = _NAMES.get(name)
    return known or _NAMES.get(name.lower(), name)
