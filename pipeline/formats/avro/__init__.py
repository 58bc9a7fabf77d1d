"""Avro: schemas from the structs of the domain, and the codec for what lies in Kafka."""

from pipeline.formats.avro.catalogue import Record
from pipeline.formats.avro.codec import Codec, Resolve, StaleSchemas, Undecodable, Unencodable
from pipeline.formats.avro.shipped import SchemaIds

__all__ = ["Codec", "Record", "Resolve", "SchemaIds", "StaleSchemas", "Undecodable", "Unencodable"]
