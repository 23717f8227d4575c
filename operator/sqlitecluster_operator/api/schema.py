"""From the models to the structural schema of the CRD, and to the CRD itself.

Pydantic writes JSON Schema; the API server wants it without references, alternatives with null or titles, with
``x-kubernetes-…`` words and with the rules as CEL. Pure: values in, values out.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from sqlitecluster_operator.api.base import GROUP, VERSION, Model, wire_name
from sqlitecluster_operator.api.cluster import CRD_NAME, KIND, PLURAL, SQLiteCluster

Schema = dict[str, Any]

_ORDER: Final = ("description", "type", "format", "default", "enum", "required", "properties", "items")
_COLUMNS: Final = (
    ("Ready", "string", ".status.ready", "Ready and wanted pods.", 0),
    ("Primary", "string", ".status.currentPrimary", "Pod that writes.", 0),
    ("Status", "string", '.status.conditions[?(@.type=="Ready")].reason', "Reason of the condition Ready.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Since when the cluster exists.", 0),
    ("Epoch", "integer", ".status.epoch", "Rises whenever a pod becomes the primary.", 1),
    ("Since", "date", ".status.currentPrimarySince", "Since when this pod is the primary.", 1),
    ("Size", "string", ".spec.storage.size", "Size of each volume.", 1),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', "Message of the condition Ready.", 1),
)


def crd(*, keep: bool = False) -> Schema:
    """The CustomResourceDefinition; ``keep``: Helm leaves it, and so all clusters, when it uninstalls."""
    metadata: Schema = {"name": CRD_NAME}
    if keep:
        metadata["annotations"] = {"helm.sh/resource-policy": "keep"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["sqc", "sqlite"],
                "categories": ["all", "databases"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": text, "priority": priority}
            for name, kind, path, text, priority in _COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.instances",
                "statusReplicasPath": ".status.instances",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": openapi_schema()},
    }


def openapi_schema() -> Schema:
    """The structural schema of the whole object."""
    schema = node_schema(SQLiteCluster)
    properties = schema["properties"]
    properties["apiVersion"] = _plain(properties["apiVersion"])
    properties["kind"] = _plain(properties["kind"])
    properties["metadata"] = {"type": "object"}
    properties["status"] = _without_defaults(properties["status"])
    schema["required"] = ["spec"]
    return schema


def node_schema(model: type[Model]) -> Schema:
    """The structural schema of one model and everything below it."""
    document = model.model_json_schema(by_alias=True)
    definitions = document.pop("$defs", {})
    kinds = {kind.__name__: kind for kind in models(model)}
    converted = _convert(document, definitions, kinds, model)
    assert isinstance(converted, dict)
    return converted


def models(model: type[Model]) -> set[type[Model]]:
    """The model and all models below it."""
    found: set[type[Model]] = set()
    todo: list[Any] = [model]
    while todo:
        kind = todo.pop()
        if isinstance(kind, type) and issubclass(kind, Model):
            if kind not in found:
                found.add(kind)
                todo += [field.annotation for field in kind.model_fields.values()]
        else:
            todo += getattr(kind, "__args__", ())
    return found


def _convert(node: Schema, definitions: Schema, kinds: dict[str, type[Model]], model: type[Model] | None) -> Schema:
    node = dict(node)
    reference = node.pop("$ref", None)
    if reference is not None:
        name = reference.rpartition("/")[2]
        return _convert({**definitions[name], **node}, definitions, kinds, kinds[name])
    if "anyOf" in node:
        (real,) = [kind for kind in node.pop("anyOf") if kind != {"type": "null"}]
        if node.get("default") is None:
            node.pop("default", None)
        return _convert({**real, **node}, definitions, kinds, None)
    _tidy(node)
    if model is not None:
        _add_model(node, model)

    def below(inner: Schema) -> Schema:
        return _convert(inner, definitions, kinds, None)

    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = below(node["additionalProperties"])
    else:
        node.pop("additionalProperties", None)
    if "properties" in node:
        node["properties"] = {name: below(inner) for name, inner in node["properties"].items()}
    if "items" in node:
        node["items"] = below(node["items"])
    first = {key: node[key] for key in _ORDER if key in node}
    return first | {key: value for key, value in sorted(node.items()) if key not in first}


def _tidy(node: Schema) -> None:
    """Words of JSON Schema that the API server does not know, and line ends in descriptions."""
    node.pop("title", None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "description" in node:
        node["description"] = " ".join(node["description"].split())


def _add_model(node: Schema, model: type[Model]) -> None:
    """What only the model knows: defaults that are made, unknown fields, rules."""
    for name, field in model.model_fields.items():
        if field.default_factory is not None:
            made: Any = field.get_default(call_default_factory=True)
            # Whole, not {}: the API server checks rules on a default before it fills in the defaults below it.
            default: Any = _dumped(made) if isinstance(made, BaseModel) else made
            node["properties"][wire_name(name)] = {**node["properties"][wire_name(name)], "default": default}
    if model.model_config.get("extra") == "allow":
        node["x-kubernetes-preserve-unknown-fields"] = True
    if model.RULES:
        node["x-kubernetes-validations"] = [
            {"rule": rule.cel, "message": rule.message} | ({"fieldPath": f".{rule.field}"} if rule.field else {})
            for rule in model.RULES
        ]


def _dumped(model: BaseModel) -> Schema:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _plain(node: Schema) -> Schema:
    return {"description": node["description"], "type": "string"}


def _without_defaults(node: Schema) -> Schema:
    """A status is what was seen; the API server must not fill it in."""
    kept = {key: value for key, value in node.items() if key != "default"}
    if "properties" in kept:
        kept["properties"] = {name: _without_defaults(below) for name, below in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = _without_defaults(kept["items"])
    return kept
