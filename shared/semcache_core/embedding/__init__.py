"""Text to unit vector.

- `onnx`: the artefact's int8 model on ONNX Runtime, the default; finds characters it cannot read
- `wrappers`: sentence-transformers models, LangChain and LlamaIndex embeddings as embedders
- `batching`: joins concurrent calls into batches, keeps recent vectors, checks what a model returns
- `questions`: embeds the core of a question, without the greeting, thanks and emoji around it
- `cpu`: how many cores a process may use, also in a container
"""
