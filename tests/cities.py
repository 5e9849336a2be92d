"""Two documents about cities, and a retriever that finds what it is told to find."""

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

BASEL = TextNode(id_="basel", text="Basel lies on the river Rhine.\nIt is old.")
BERN = TextNode(id_="bern", text="Bern lies on the river Aare.")


class Found(BaseRetriever):
    """Finds the nodes that it is given."""

    def __init__(self, *nodes: TextNode) -> None:
        super().__init__()
        self.nodes = list(nodes)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=node) for node in self.nodes]
