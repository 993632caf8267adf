package ai.onnxruntime;

/** A stand-in: see tests/apps/README.md. */
public class OrtException extends Exception {
  OrtException(String message) {
    super(message);
  }
}
