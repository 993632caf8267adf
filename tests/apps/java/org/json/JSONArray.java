package org.json;

import java.util.List;

/** A stand-in: see tests/apps/README.md. */
public class JSONArray {
  private final List<Object> values;

  JSONArray(List<Object> values) {
    this.values = values;
  }

  public int length() {
    return values.size();
  }

  public int getInt(int index) throws JSONException {
    return (int) getLong(index);
  }

  public long getLong(int index) throws JSONException {
    return (Long) values.get(index);
  }

  public String getString(int index) throws JSONException {
    return (String) values.get(index);
  }

  public JSONArray getJSONArray(int index) throws JSONException {
    return (JSONArray) values.get(index);
  }
}
