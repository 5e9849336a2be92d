"""Text to unit vector.

- `onnx`: the artefact's int8 model on ONNX Runtime, the default; finds characters it cannot read
- `wrappers`: sentence-transformers models, LangChain and LlamaIndex embeddings as embedders
- `batching`: joins concurrent calls into batches, keeps recent vectors, checks what a model returns
- `questions`: embeds what a question asks, without courtesy around it and slips of typing
- `language`: tells whether a question is in English
- `spelling`: corrects slips of typing in English
- `cpu`: how many cores a process may use, also in a container
"""
