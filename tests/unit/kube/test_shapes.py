from __future__ import annotations

from flexinfer.api import definitions, kinds
from flexinfer.kube import shapes
from flexinfer.kube.shapes import ATOMIC, METADATA, PLAIN, SET, Shape, keyed


def test_shape_of_a_custom_resource_comes_from_its_schema():
    schema = {
        "type": "object",
        "properties": {
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "properties": {
                    "source": {"type": "string"},
                    "args": {"type": "array", "items": {"type": "string"}},
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "selector": {"type": "object", "x-kubernetes-map-type": "atomic"},
                    "pools": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "array",
                            "x-kubernetes-list-type": "map",
                            "x-kubernetes-list-map-keys": ["port", "protocol"],
                            "items": {
                                "type": "object",
                                "properties": {"port": {"type": "integer"}, "protocol": {"default": "TCP"}},
                            },
                        },
                    },
                    "config": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            },
        },
    }
    ports = keyed("port", "protocol", defaults={"protocol": "TCP"})
    assert shapes.from_schema(schema) == Shape(
        fields={
            "metadata": METADATA,
            "spec": Shape(fields={"tags": SET, "selector": ATOMIC, "pools": Shape(rest=ports)}),
        }
    )


def test_a_kind_without_schema_has_the_shape_of_its_metadata_only():
    assert shapes.builtin("Unheard") == shapes.kind()


def test_containers_are_told_apart_by_name_down_to_their_ports():
    container = shapes.builtin("Deployment").child("spec").child("template").child("spec").child("containers")
    assert container.keys == ("name",)
    assert container.child("ports").keys == ("containerPort", "protocol")
    assert container.child("command") == PLAIN


def test_the_conditions_of_a_model_are_told_apart_by_type():
    shape = shapes.from_schema(definitions.root(kinds.MODEL))
    assert shape.child("status").child("conditions").keys == ("type",)
    assert shape.child("spec").child("tolerations").keys == ()
