import java.io.File

/** Check a bundle that reads texts; a third argument names a file of texts whose ids to print. */
fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    val tokenizer = Tokenizer(File(folder, "tokenizer.json").readText())
    val texts = tokenizer.check(File(folder, "golden_texts.json").readText())
    EdgeModel(File(folder, arguments[1]).readBytes()).use { model ->
        println(model.check(File(folder, "golden.bin").readBytes(), tokenizer, texts))
    }
    File(arguments[2]).readLines().forEach { println(tokenizer.encode(it).joinToString(" ")) }
}
