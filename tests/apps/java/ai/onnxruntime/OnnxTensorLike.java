package ai.onnxruntime;

/** A stand-in: see tests/apps/README.md. */
public abstract class OnnxTensorLike implements OnnxValue {}
