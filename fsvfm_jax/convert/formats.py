"""Names the format of a file of weights by its first bytes, for messages about unexpected files."""

# PyTorch's legacy format begins with a pickled number.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
SIGNATURES = (
    (
        LEGACY,
        "in the format of PyTorch before version 1.6: load and save it again where you trust it",
    ),
    (b"\x80", "a bare pickle"),
    (b"PK\x03\x04", "a zip archive"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"GGUF", "a GGUF file, of quantised weights"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"<", "a web page or XML: the download failed, so download the weights again"),
)
HEAD_BYTES = 512


def name_format(head: bytes) -> str:
    """Returns the format of a file that begins with `head`, as the end of a sentence with "is"."""
    if not head:
        return "empty"
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[8:9] == b"{":
        return "a safetensors file by another name"
    return "of no format known here"
