import CStaticFiles
import Relay

extension StaticFile {
    /// What is built into this executable, by path: the JavaScript client and the example pages.
    static let embedded: [String: StaticFile] = {
        var count = 0
        let files = UnsafeBufferPointer(start: cstatic_files(&count), count: count)
        return Dictionary(
            uniqueKeysWithValues: files.map { file in
                let body = Array(UnsafeBufferPointer(start: file.bytes, count: file.count))
                return (String(cString: file.path), StaticFile(contentType: String(cString: file.type), body: body))
            })
    }()
}
