"""The tags by which an answer is dropped when what it was made from changes."""


def document_tag(ref_doc_id: str) -> str:
    """The tag of every answer that was made from this document: "document:<id>"."""
    return f"document:{ref_doc_id}"


def node_tag(node_id: str) -> str:
    """The tag of every answer that was made from this node: "node:<id>"."""
    return f"node:{node_id}"
