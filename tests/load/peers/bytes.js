function pass(s) {
    s.on("upload", (data, flags) => s.send(data, flags));
    s.on("download", (data, flags) => s.send(data, flags));
}

export default { pass };
