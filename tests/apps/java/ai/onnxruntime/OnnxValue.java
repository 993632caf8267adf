package ai.onnxruntime;

/** A stand-in: see tests/apps/README.md. */
public interface OnnxValue extends AutoCloseable {
  @Override
  void close();
}
