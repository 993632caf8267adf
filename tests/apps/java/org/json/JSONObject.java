package org.json;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A stand-in that reads whole numbers, texts, arrays and objects: see tests/apps/README.md. */
public class JSONObject {
  private final Map<String, Object> values;

  public JSONObject(String json) throws JSONException {
    values = ((JSONObject) new Reader(json).value()).values;
  }

  private JSONObject(Map<String, Object> values) {
    this.values = values;
  }

  public int getInt(String name) throws JSONException {
    return (int) getLong(name);
  }

  public long getLong(String name) throws JSONException {
    return (Long) get(name);
  }

  public String getString(String name) throws JSONException {
    return (String) get(name);
  }

  public JSONArray getJSONArray(String name) throws JSONException {
    return (JSONArray) get(name);
  }

  public JSONArray optJSONArray(String name) {
    return (JSONArray) values.get(name);
  }

  private Object get(String name) throws JSONException {
    if (!values.containsKey(name)) throw new JSONException("No value for " + name);
    return values.get(name);
  }

  private static class Reader {
    private final String text;
    private int place = 0;

    Reader(String text) {
      this.text = text;
    }

    Object value() throws JSONException {
      char first = next();
      if (first == '{') return object();
      if (first == '[') return new JSONArray(array());
      if (first == '"') return string();
      int start = place - 1;
      while (Character.isDigit(text.charAt(place))) place++;
      return Long.parseLong(text.substring(start, place));
    }

    private JSONObject object() throws JSONException {
      Map<String, Object> found = new HashMap<>();
      for (char sign = next(); sign != '}'; sign = next()) {
        if (sign == ',') continue;
        String name = string();
        if (next() != ':') throw new JSONException("no colon at " + place);
        found.put(name, value());
      }
      return new JSONObject(found);
    }

    private List<Object> array() throws JSONException {
      List<Object> found = new ArrayList<>();
      for (char sign = next(); sign != ']'; sign = next()) {
        if (sign != ',') place--;
        found.add(value());
      }
      return found;
    }

    private String string() throws JSONException {
      StringBuilder found = new StringBuilder();
      for (char sign = text.charAt(place++); sign != '"'; sign = text.charAt(place++)) {
        if (sign != '\\') {
          found.append(sign);
          continue;
        }
        char escaped = text.charAt(place++);
        switch (escaped) {
          case 'n' -> found.append('\n');
          case 't' -> found.append('\t');
          case 'r' -> found.append('\r');
          case 'b' -> found.append('\b');
          case 'f' -> found.append('\f');
          case 'u' -> {
            found.append((char) Integer.parseInt(text.substring(place, place + 4), 16));
            place += 4;
          }
          default -> found.append(escaped);
        }
      }
      return found.toString();
    }

    private char next() {
      while (Character.isWhitespace(text.charAt(place))) place++;
      return text.charAt(place++);
    }
  }
}
