"""What a served model does: nothing, or what its ONNX weights say.

Imported by the servers' own interpreters from the folder it lies in.
"""


def computing(weights, in_name, out_name):
    """Give the function from the input's array to the output's.

    Args:
        weights: path of an ONNX file; empty for the identity.
        in_name: the network's input.
        out_name: the tensor of the network that is the answer.
    """
    if not weights:
        return lambda array: array

    import onnxruntime  # noqa: PLC0415 - only environments whose model needs it have it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    return lambda array: session.run([out_name], {in_name: array})[0]
