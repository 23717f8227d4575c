"""LTX: the file format of transactions, byte for byte (see ``docs/formats/ltx.md``).

Pure: bytes in, values out. Written are generation 3b (the newest reference tool reads it)
and generation 1 (LiteFS); read are all generations. The modules' docstrings give signatures:

    header      Header, Trailer                 checksum    page_checksum, rolling, fold, …
    encoder     encode, Encoder                 index       PageIndex
    decoder     decode, Decoder, LTXFile        compact     compact, merge, check_chain
    filename    filename, parse_filename        generation  Generation, FLAG_*
"""

from __future__ import annotations

from sqlitecluster.ltx.checksum import (
    CHECKSUM_FLAG,
    crc64,
    fold,
    image_checksums,
    page_checksum,
    page_checksums,
    rolling,
    rolling_many,
)
from sqlitecluster.ltx.compact import check_chain, compact, merge
from sqlitecluster.ltx.decoder import Decoder, LTXFile, decode, unpack_page
from sqlitecluster.ltx.encoder import Encoder, encode
from sqlitecluster.ltx.filename import filename, parse_filename
from sqlitecluster.ltx.generation import FLAG_COMPRESSED, FLAG_NO_CHECKSUM, Generation
from sqlitecluster.ltx.header import HEADER_SIZE, TRAILER_SIZE, Header, Trailer
from sqlitecluster.ltx.index import PageIndex

__all__ = [
    "CHECKSUM_FLAG",
    "FLAG_COMPRESSED",
    "FLAG_NO_CHECKSUM",
    "HEADER_SIZE",
    "TRAILER_SIZE",
    "Decoder",
    "Encoder",
    "Generation",
    "Header",
    "LTXFile",
    "PageIndex",
    "Trailer",
    "check_chain",
    "compact",
    "crc64",
    "decode",
    "encode",
    "filename",
    "fold",
    "image_checksums",
    "merge",
    "page_checksum",
    "page_checksums",
    "parse_filename",
    "rolling",
    "rolling_many",
    "unpack_page",
]
