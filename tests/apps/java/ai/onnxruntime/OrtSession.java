package ai.onnxruntime;

import java.io.DataInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;

/** A stand-in: see tests/apps/README.md. */
public class OrtSession implements AutoCloseable {
  private final Process answering;
  private final DataInputStream answers;

  OrtSession(byte[] model) throws OrtException {
    try {
      Path file = Files.createTempFile("model", ".ort");
      Files.write(file, model);
      answering =
          new ProcessBuilder(
                  System.getenv("ANSWER_PYTHON"), System.getenv("ANSWER_PY"), file.toString())
              .redirectError(ProcessBuilder.Redirect.INHERIT)
              .start();
      answers = new DataInputStream(answering.getInputStream());
    } catch (IOException error) {
      throw new OrtException(error.toString());
    }
  }

  public Result run(
      Map<String, ? extends OnnxTensorLike> inputs, Set<String> requestedOutputs)
      throws OrtException {
    StringBuilder line = new StringBuilder(requestedOutputs.iterator().next());
    inputs.forEach(
        (name, value) -> {
          OnnxTensor tensor = (OnnxTensor) value;
          line.append('\t').append(name).append('\t').append(tensor.type).append('\t');
          for (long size : tensor.shape) line.append(size).append(',');
        });
    try {
      OutputStream asking = answering.getOutputStream();
      asking.write(line.append('\n').toString().getBytes(StandardCharsets.UTF_8));
      for (OnnxTensorLike value : inputs.values()) asking.write(((OnnxTensor) value).bytes);
      asking.flush();
      StringBuilder count = new StringBuilder();
      for (int sign = answers.readByte(); sign != '\n'; sign = answers.readByte())
        count.append((char) sign);
      byte[] bytes = new byte[Integer.parseInt(count.toString())];
      answers.readFully(bytes);
      return new Result(
          new OnnxTensor("<f4", new long[] {bytes.length / 4}, ByteBuffer.wrap(bytes)));
    } catch (IOException error) {
      throw new OrtException(error.toString());
    }
  }

  @Override
  public void close() throws OrtException {
    answering.destroy();
  }

  /** A stand-in: see tests/apps/README.md. */
  public static class SessionOptions implements AutoCloseable {
    public void setIntraOpNumThreads(int numThreads) throws OrtException {}

    @Override
    public void close() {}
  }

  /** A stand-in: see tests/apps/README.md. */
  public static class Result implements AutoCloseable {
    private final OnnxValue only;

    Result(OnnxValue only) {
      this.only = only;
    }

    public OnnxValue get(int index) {
      return only;
    }

    @Override
    public void close() {}
  }
}
