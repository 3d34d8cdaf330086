"""A page on which to try a model: `perceiver-demo RUN`, with Gradio (extra `demo`).

`fields` has the inputs of the page, made from the spec; `result` computes what the page shows; `page` puts them together;
`main` is the command line.
"""
