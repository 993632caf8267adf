package org.json;

/** A stand-in: see tests/apps/README.md. */
public class JSONException extends Exception {
  JSONException(String message) {
    super(message);
  }
}
