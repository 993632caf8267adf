import Foundation

/// Check a bundle that reads texts; a third argument names a file of texts whose ids to print.
func read(_ name: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: CommandLine.arguments[1]).appendingPathComponent(name))
}

let tokenizer = try Tokenizer(json: read("tokenizer.json"))
let texts = try tokenizer.check(goldenTexts: read("golden_texts.json"))
let model = try EdgeModel(path: CommandLine.arguments[1] + "/" + CommandLine.arguments[2])
print(try model.check(golden: read("golden.bin"), tokenizer: tokenizer, texts: texts))
let more = try Data(contentsOf: URL(fileURLWithPath: CommandLine.arguments[3]))
for line in more.split(separator: UInt8(ascii: "\n")) {
    let ids = tokenizer.encode(String(decoding: line, as: UTF8.self))
    print(ids.map(String.init).joined(separator: " "))
}
