package ai.onnxruntime;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;

/** A stand-in: see tests/apps/README.md. */
public class OnnxTensor extends OnnxTensorLike {
  final String type;
  final long[] shape;
  final byte[] bytes;

  OnnxTensor(String type, long[] shape, ByteBuffer values) {
    this.type = type;
    this.shape = shape;
    this.bytes = values.array();
  }

  public static OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape)
      throws OrtException {
    ByteBuffer bytes = room(4 * data.remaining());
    bytes.asFloatBuffer().put(data);
    return new OnnxTensor("<f4", shape, bytes);
  }

  public static OnnxTensor createTensor(OrtEnvironment env, LongBuffer data, long[] shape)
      throws OrtException {
    ByteBuffer bytes = room(8 * data.remaining());
    bytes.asLongBuffer().put(data);
    return new OnnxTensor("<i8", shape, bytes);
  }

  public static OnnxTensor createTensor(OrtEnvironment env, IntBuffer data, long[] shape)
      throws OrtException {
    ByteBuffer bytes = room(4 * data.remaining());
    bytes.asIntBuffer().put(data);
    return new OnnxTensor("<i4", shape, bytes);
  }

  public static OnnxTensor createTensor(
      OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type) throws OrtException {
    ByteBuffer bytes = room(data.remaining());
    bytes.put(data);
    return new OnnxTensor(type == OnnxJavaType.UINT8 ? "u1" : "i1", shape, bytes);
  }

  public FloatBuffer getFloatBuffer() {
    return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
  }

  @Override
  public void close() {}

  private static ByteBuffer room(int size) {
    return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
  }
}
