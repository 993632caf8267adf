import Foundation

// Stand-ins: see tests/apps/README.md.

public enum ORTLoggingLevel { case verbose, info, warning, error, fatal }

public enum ORTTensorElementDataType {
    case undefined, float, int8, uInt8, int32, uInt32, int64, uInt64, string

    var name: String {
        switch self {
        case .float: return "<f4"
        case .int8: return "i1"
        case .uInt8: return "u1"
        case .int32: return "<i4"
        case .int64: return "<i8"
        default: fatalError("no golden input is of this type")
        }
    }
}

public final class ORTEnv {
    public init(loggingLevel: ORTLoggingLevel) throws {}
}

public final class ORTSessionOptions {
    public init() throws {}
    public func setIntraOpNumThreads(_ intraOpNumThreads: Int32) throws {}
}

public final class ORTRunOptions {
    public init() throws {}
}

public final class ORTValue {
    let data: NSMutableData
    let type: ORTTensorElementDataType
    let shape: [NSNumber]

    public init(
        tensorData: NSMutableData, elementType: ORTTensorElementDataType, shape: [NSNumber]
    ) throws {
        data = tensorData
        type = elementType
        self.shape = shape
    }

    public func tensorData() throws -> NSMutableData { data }
}

public final class ORTSession {
    private let answering = Process()
    private let asking = Pipe()
    private let answers = Pipe()

    public init(env: ORTEnv, modelPath: String, sessionOptions: ORTSessionOptions?) throws {
        let environment = ProcessInfo.processInfo.environment
        answering.executableURL = URL(fileURLWithPath: environment["ANSWER_PYTHON"]!)
        answering.arguments = [environment["ANSWER_PY"]!, modelPath]
        answering.standardInput = asking
        answering.standardOutput = answers
        try answering.run()
    }

    deinit { answering.terminate() }

    public func run(
        withInputs inputs: [String: ORTValue], outputNames: Set<String>, runOptions: ORTRunOptions?
    ) throws -> [String: ORTValue] {
        let output = outputNames.first!
        var line = output
        var bytes = Data()
        for (name, value) in inputs {
            let shape = value.shape.map { $0.stringValue }.joined(separator: ",")
            line += "\t\(name)\t\(value.type.name)\t\(shape)"
            bytes += value.data as Data
        }
        asking.fileHandleForWriting.write(Data((line + "\n").utf8) + bytes)
        let reading = answers.fileHandleForReading
        var count = ""
        while let sign = String(data: reading.readData(ofLength: 1), encoding: .utf8), sign != "\n" {
            count += sign
        }
        var answer = Data()
        while answer.count < Int(count)! { answer += reading.readData(ofLength: Int(count)! - answer.count) }
        let found = NSMutableData(data: answer)
        return [output: try ORTValue(tensorData: found, elementType: .float, shape: [])]
    }
}
