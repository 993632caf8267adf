import Foundation

/// Check a bundle as an app would: arguments are its folder and its model's file.
let folder = URL(fileURLWithPath: CommandLine.arguments[1])
let model = try EdgeModel(path: folder.appendingPathComponent(CommandLine.arguments[2]).path)
print(try model.check(golden: Data(contentsOf: folder.appendingPathComponent("golden.bin"))))
