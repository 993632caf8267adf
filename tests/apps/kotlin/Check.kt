import java.io.File

/** Check a bundle as an app would: arguments are its folder and its model's file. */
fun main(arguments: Array<String>) {
    val folder = File(arguments[0])
    EdgeModel(File(folder, arguments[1]).readBytes()).use { model ->
        println(model.check(File(folder, "golden.bin").readBytes()))
    }
}
